"""Ways to run a bundle's network, behind one small Protocol (`base.Runtime`)."""
