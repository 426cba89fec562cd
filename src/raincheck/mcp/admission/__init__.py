"""Admission: bounds on what each scope has under way in this process."""
