"""From a recipe to store paths: plan, schedule, build, and tell about it."""
