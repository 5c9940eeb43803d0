"""What ``blip2 benchmark`` runs: captioning timed stage by stage, beside the same work in another library."""
