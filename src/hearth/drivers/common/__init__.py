"""What more than one driver is made of: filters, mounts, slots, guest sockets, uids, disks. Knows no driver."""
