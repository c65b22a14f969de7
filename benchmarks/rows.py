"""Every row, in the order of the report."""

from .bursts import cold_start, long_spike, short_spike, waves
from .checkout import checkout, liveness
from .contention import contention, no_hold
from .failures import outage, restart
from .greenlets import hand_off, time_out_together
from .idle import quiet
from .model import Benchmark
from .postgres import loopback
from .requests import requests
from .sessions import loops, messages, units
from .windows import watched, windows

__all__ = ["BENCHMARKS"]

BENCHMARKS = (
    Benchmark("checkout", "one checkout and return on the stub", checkout),
    Benchmark("postgres", "one checkout and return on PostgreSQL, loopback", loopback),
    Benchmark("requests", "requests beside the usual pattern, PostgreSQL", requests),
    Benchmark("windows", "a checkout and a request while every window stands open", windows),
    Benchmark("watched", "ten processes that somebody watches", watched),
    Benchmark("unit-of-work", "a unit of work beside a plain session", units),
    Benchmark("message", "a message of consume beside a plain loop", messages),
    Benchmark("session", "session_factory beside a plain session", loops),
    Benchmark("liveness", "what the look at the socket costs", liveness),
    Benchmark("contention", "64 threads on 10, holds of 4 ms", contention),
    Benchmark("no-hold", "64 threads on 10, no hold", no_hold),
    Benchmark("waves", "30 waves of 12 units on 5 + 10", waves),
    Benchmark("short-spike", "a spike of short units", short_spike),
    Benchmark("long-spike", "a spike of long units", long_spike),
    Benchmark("cold-start", "15 callers on an empty pool", cold_start),
    Benchmark("outage", "an outage of 8 s", outage),
    Benchmark("restart", "the first checkout after a restart", restart),
    Benchmark("hand-off", "greenlets: the hand-off in a long line", hand_off),
    Benchmark("time-out", "greenlets: a long line that times out", time_out_together),
    Benchmark("quiet", "what idle pools cost; an outage of 130 s, ours only", quiet),
)
