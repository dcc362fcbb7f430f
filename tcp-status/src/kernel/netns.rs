//! temp
pub fn own() -> std::io::Result<u32> {
    let l = std::fs::read_link("/proc/thread-self/ns/net")?;
    Ok(l.to_str()
        .unwrap()
        .trim_start_matches("net:[")
        .trim_end_matches(']')
        .parse()
        .unwrap())
}
pub struct Target(u32);
impl Target {
    pub fn inode(&self) -> u32 {
        self.0
    }
}
pub fn resolve(_: &str) -> Result<Target, crate::server::protocol::Refusal> {
    Ok(Target(own().unwrap()))
}
