"""What ``blip2 benchmark`` runs: a task timed stage by stage, beside the same work done another way."""
