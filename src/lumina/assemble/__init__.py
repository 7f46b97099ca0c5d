"""From a Plan and a State to a Program, and back."""
