"""PEFT's types of adapter, a file each, named as `peft_type` in small letters."""
