"""Trainings in processes of their own: started, watched, and restarted."""
