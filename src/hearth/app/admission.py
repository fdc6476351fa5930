"""Who may wait for an instance, in which order, and until when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from hearth.core.errors import HearthError, QueueFull

T = TypeVar("T")  # what is waited for: an instance

Granted = Callable[[T | None, HearthError | None, float], None]
"""Called once, on the loop: with a reserved instance, or with the reason why there is none; and the seconds of the
wait that went into starting the instance."""


class Ticket(Generic[T]):
    """One request's place in the line. Who leaves cancels it; nothing is called then."""

    __slots__ = ("_line", "deadline", "granted", "open", "since")

    def __init__(self, line: Line[T], since: float, deadline: float, granted: Granted[T]) -> None:
        self._line = line
        self.since = since
        self.deadline = deadline
        self.granted = granted
        self.open = True

    def cancel(self) -> None:
        """Leave the line. Idempotent."""
        if self.open:
            self.open = False
            self._line.waiting -= 1


class Line(Generic[T]):
    """The bounded queue of one version: first come, first served. All of it is O(1) but `expired`."""

    __slots__ = ("_tickets", "waiting")

    def __init__(self) -> None:
        self._tickets: deque[Ticket[T]] = deque()
        self.waiting = 0

    def join(
        self, since: float, deadline: float, granted: Granted[T], bound: int, service: float | None
    ) -> Ticket[T]:
        """Queue up.

        Args:
            since: when the request came, monotonic seconds.
            deadline: until when it may wait.
            granted: hears the end of the wait.
            bound: how many may wait at once.
            service: average seconds of a request, for the advice when to come back.

        Raises:
            QueueFull: `bound` wait already.
        """
        if self.waiting >= bound:
            advice = min(30.0, max(1.0, service or 1.0))
            raise QueueFull(
                f"{bound} requests are waiting for this function already",
                hint="try again later, or raise scale.max or scale.queue in function.yaml",
                retry_after=advice,
            )
        ticket = Ticket(self, since, deadline, granted)
        self._tickets.append(ticket)
        self.waiting += 1
        return ticket

    def oldest(self) -> Ticket[T] | None:
        """Who has waited longest and still does."""
        tickets = self._tickets
        while tickets:
            if tickets[0].open:
                return tickets[0]
            tickets.popleft()
        return None

    def pop(self) -> Ticket[T] | None:
        """Take who has waited longest out of the line."""
        ticket = self.oldest()
        if ticket is not None:
            ticket.cancel()
            self._tickets.popleft()
        return ticket

    def clear(self) -> Iterator[Ticket[T]]:
        """Take everybody out."""
        while (ticket := self.pop()) is not None:
            yield ticket

    def expired(self, now: float) -> list[Ticket[T]]:
        """Take out those whose deadline has passed."""
        late = [ticket for ticket in self._tickets if ticket.open and ticket.deadline <= now]
        for ticket in late:
            ticket.cancel()
        return late
