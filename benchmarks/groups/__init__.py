"""What is measured, in groups that can be asked for one by one."""
