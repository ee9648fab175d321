"""Self-supervised pretraining: momentum contrast (MoCo v1, v2) on unlabelled images."""
