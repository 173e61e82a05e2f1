"""The ray caster compared with MuJoCo's renderer."""
