"""The loop for several synchronous requests at once: up to N handlers on N + 1 threads.

One thread leads: it reads the socket and runs handlers itself, which is far cheaper than handing each to another
thread. When a handler keeps it for longer than a tick, a watchdog makes another thread the leader, and the
first finishes its handler as a worker. Once handlers have been seen to block, the lead is given away before
each handler, until they are quick again.
"""

import threading
from _thread import allocate_lock
from time import perf_counter, sleep

from .ending import finish

TICK = 0.002  # seconds that a handler may keep the leader
_QUICK = 0.0005  # seconds; a handler that takes less need not be run beside the leader
_WARY = 64  # requests for which the lead is given away beforehand after one that blocked
_IDLE_TICKS = 50


class Threads:
    """All fields are guarded by `gate`, which is held for moments only."""

    def __init__(self, connection, run, most):
        self.connection = connection
        self.run = run
        self.most = most  # handlers at once
        self.gate = allocate_lock()
        self.running = 0
        self.count = 1  # threads; at most `most` + 1, so that one can always lead
        self.idle = []  # locks that threads wait on to become the leader
        self.inline = None  # the leader's stream while it runs a handler itself
        self.stays = False  # the leader waits for its own stream and reads: nobody may take the lead
        self.wary = 0
        self.dozing = allocate_lock()
        self.dozes = False
        connection.wait = self.wait
        connection.glance = lambda: None

    def start(self):
        threading.Thread(target=self.watch, name="hearth-watchdog", daemon=True).start()
        self.work(True)

    # Threads.

    def work(self, leads, stream=None):
        """A thread's life: lead, or run a stream's handler, or wait to lead."""
        while True:
            if leads:
                self.lead()
            elif stream is not None:
                self.run(stream)
                self.connection.flush()
            leads, stream = self.next()

    def next(self):
        """What a thread does after a handler: (leads, stream)."""
        connection = self.connection
        with self.gate:
            self.running -= 1
            if connection.ready and self.running < self.most:
                self.running += 1
                return False, connection.ready.popleft()
            if connection.draining and not self.running and not connection.streams:
                finish(connection)
            lock = allocate_lock()
            lock.acquire()
            self.idle.append(lock)
        lock.acquire()
        return True, None

    def lead(self):
        """Read and run until another thread leads; returns after a handler."""
        connection, gate, ready, run = self.connection, self.gate, self.connection.ready, self.run
        ran = None
        connection.flush()
        while True:
            stream = None
            with gate:
                if ran is not None:
                    if self.inline is not ran:
                        break  # somebody else leads by now; `next` books the end of this handler
                    self.inline = ran = None
                    self.running -= 1
                if ready and self.running < self.most:
                    stream = ready.popleft()
                    self.running += 1
                    if self.wary:
                        self.wary -= 1
                    if not self.wary or not self.promote():
                        self.inline = stream
                        if self.dozes:
                            self.dozes = False
                            self.dozing.release()
                elif connection.draining and not self.running and not connection.streams and not ready:
                    finish(connection)
            if stream is None:
                connection.flush()
                connection.read()
            elif self.inline is stream:
                run(stream)
                connection.flush_early()
                ran = stream
            else:
                began = perf_counter()
                run(stream)
                connection.flush()
                if perf_counter() - began > _QUICK:
                    self.wary = _WARY
                return
        connection.flush()

    def promote(self):
        """Make another thread the leader; called with the gate held by who led. False when none can be started."""
        if self.idle:
            self.idle.pop().release()
            return True
        # Of most + 1 threads at most `most` run a handler, so this never starts more than that.
        thread = threading.Thread(target=self.work, args=(True,), name=f"hearth-{self.count}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the sandbox's limit of processes and threads: the leader stays
            return False
        self.count += 1
        return True

    def wait(self, stream, enough):
        """Wait until `enough()`; the leader gives the lead away first, or reads on itself where it can't."""
        self.connection.flush()
        with self.gate:
            leads = self.inline is stream
            if leads and self.promote():
                self.inline = None
                leads = False
            if leads:
                self.stays = True
        while leads and not enough():
            self.connection.flush()
            self.connection.read()
        while not enough():
            lock = allocate_lock()
            lock.acquire()
            stream.waiter = lock.release
            if enough():
                stream.waiter = None
                break
            lock.acquire()
        if leads:
            self.stays = False

    def watch(self):
        """Takes the lead from a thread that a handler keeps."""
        seen, quiet = None, 0
        while True:
            with self.gate:
                stream = self.inline
                if stream is None:
                    quiet += 1
                    if quiet > _IDLE_TICKS:
                        quiet = 0
                        self.dozes = True
                        self.dozing = allocate_lock()
                        self.dozing.acquire()
                else:
                    quiet = 0
                    if stream is seen and not self.stays and self.promote():
                        self.inline = None
                        self.wary = _WARY
                seen = stream
                dozes = self.dozes
            if dozes:
                self.dozing.acquire()
            else:
                sleep(TICK)


def serve(connection, run, most, ready):
    """Answer requests until the host drains or hangs up."""
    ready()
    Threads(connection, run, most).start()
