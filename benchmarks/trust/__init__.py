"""How far a trained world model may be believed, against the simulator it learned."""
