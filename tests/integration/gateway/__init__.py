"""The data path over real sockets, on the loop that shards run on."""
