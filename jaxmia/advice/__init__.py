"""The release advisor: what each lever does to accuracy and to vulnerability, and the cheapest that meets a limit."""
