"""How often a tenant may ask for something, counted in Valkey by all API processes together."""

import logging
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import RedisError

from jobstore.kit.errors import QuotaError

logger = logging.getLogger(__name__)

TIMEOUT = 1.0  # seconds; no request waits longer for a Valkey that is away


class Rates:
    """Moving windows of a minute. Where Valkey is away nothing is limited: work goes on."""

    def __init__(self, redis_url: str) -> None:
        # Over a socket the library wants its own scheme.
        url = redis_url.replace("unix://", "redis+unix://", 1) if redis_url.startswith("unix://") else redis_url
        storage = RedisStorage(url, key_prefix="difffit-rates", socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
        self._limiter = MovingWindowRateLimiter(storage)

    def check(self, what: str, tenant_id: str, per_minute: int) -> None:
        """Count one request; raises QuotaError (`rate_limited`) where it is one too many."""
        window = RateLimitItemPerMinute(per_minute)
        try:
            if per_minute > 0 and self._limiter.hit(window, what, tenant_id):
                return
            left = self._limiter.get_window_stats(window, what, tenant_id).reset_time - time.time()
        except RedisError as error:
            logger.warning("Valkey does not count requests: %s", error)
            return
        raise QuotaError(
            f"Your tenant may send {per_minute} such requests a minute. Wait as long as `Retry-After` says, or ask the "
            "operator for more.",
            code="rate_limited",
            param=what,
            retry_after=max(1, math.ceil(left)),
        )
