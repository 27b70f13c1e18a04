"""PostgreSQL and Valkey from pip wheels, on private sockets; they end with the process that started them."""
