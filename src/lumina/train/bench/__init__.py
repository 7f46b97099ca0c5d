"""How fast training is here, alone and beside other trainers."""
