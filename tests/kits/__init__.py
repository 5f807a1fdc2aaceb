"""What tests share: small models and configs, servers that stand in for others, clusters, sockets, browsers."""
