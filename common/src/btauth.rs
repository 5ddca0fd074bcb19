//! btauth/1: signed HTTP requests between neurons.
