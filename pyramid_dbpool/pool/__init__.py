"""`ManagedPool`, a `QueuePool` with a fair line; knows SQLAlchemy, no ini file and no transaction.

From the top: `managed` is SQLAlchemy's face and the only module here that touches its private
names; `core` puts the parts together; `checkout` is one caller's way, `upkeep` and `watch` are
what happens beside it; `opener` opens, `health` checks and closes, `examiners` are the
threads that do it beside, `refusals` makes the errors, `estimates` says when to come again;
`outage` is what is known of a server that is away; `shared` is what the parts have in common.
`line` decides who gets what, `entry` is one connection in it, `leases` says who holds which;
`housekeeper` is the thread that calls what is due.

For the floors above: `managed.ManagedPool`, `deadlines` (how long a caller waits), `labels`
(what a holder is called), `inheritance` (what a forked child must not use), `fork_gate` (no fork
while a connection is opened), `options` (what can be set, with the plugin's defaults), `stats`
(the numbers).
"""
