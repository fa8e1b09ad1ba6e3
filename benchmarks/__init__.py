"""Measurements that the project makes of itself; results/ keeps what they gave, with the machine they ran on."""
