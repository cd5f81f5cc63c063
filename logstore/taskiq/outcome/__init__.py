"""Results, errors and progress of taskiq as plain data, and back."""
