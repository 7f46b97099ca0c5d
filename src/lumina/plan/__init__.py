"""Config, environment and evidence -> Plan. Nothing here imports torch but `probe`."""
