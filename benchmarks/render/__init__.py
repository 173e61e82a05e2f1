"""The ray caster beside MuJoCo's renderer."""
