"""Every process answers when it is asked, and whoever looks asks all of the host.

- `host`: asks all processes of the host, and tells them what to do.
- `server`: answers, in a thread of this process; `attend` lets it begin with the first engine.
- `run_dir`: the folder with the sockets, and who may look into it.
- `http_messages`: what is spoken there.
- `commands`: what a process can be told.
- `report`: what a process says of its pools, as JSON has it.
- `numbers`: quantiles, sums and differences of the histograms in it.
- `metrics`: names each number that a monitoring system is told, once.
- `wording`: what the windows say alike.

Nothing is written, sent or kept warm while nobody looks.
"""
