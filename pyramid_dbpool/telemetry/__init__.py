"""Every process answers when it is asked, and whoever looks asks all of the host.

- `report`: what a process says of its pools, as JSON has it.
- `numbers`: quantiles, sums and differences of the histograms in it.
- `metrics`: names each number that a monitoring system is told, once.

Nothing is written, sent or kept warm while nobody looks.
"""
