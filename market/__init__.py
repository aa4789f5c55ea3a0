"""Who does which job at what price: the domain, the roles, and what they say to each other."""
