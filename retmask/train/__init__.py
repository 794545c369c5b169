"""Fine-tuning on pairs by DPO: what it would take, the trainer, the job."""
