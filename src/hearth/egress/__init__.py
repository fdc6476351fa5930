"""Networks of sandboxes, for root: links, addresses, one nftables table, and the resolver that answers them."""
