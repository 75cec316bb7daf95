"""One readable file a job: a frozen dataclass of options and a function."""
