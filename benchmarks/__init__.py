"""Speed and A/B against other libraries, for maintainers; never imported by helpers."""
