"""What a deployment's policy decides, counts and says; `hermetic.llm.policy` is the file itself."""
