"""Ray: cluster, processes' environment, actors that are started, called, replaced and watched."""
