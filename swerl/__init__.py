"""Online RL for software-engineering agents, declared in one file."""
