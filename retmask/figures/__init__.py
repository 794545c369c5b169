"""Plotly figures in one style, and the rows of data behind them. No Streamlit, no model."""
