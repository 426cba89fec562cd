"""`raincheck serve`: HTTP and stdio."""
