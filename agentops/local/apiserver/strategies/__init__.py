"""What makes each kind behave as itself: defaults, checks, immutability, allocation."""
