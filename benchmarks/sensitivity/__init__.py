"""Local sensitivity of trained agents (GPLD, Appendix F and Figure 9)."""
