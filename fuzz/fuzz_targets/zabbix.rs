//! See `tcp_status::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tcp_status::fuzzing::feed("zabbix", bytes));
