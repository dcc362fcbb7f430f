//! temp
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);
#[derive(Default, Debug, Clone)]
pub struct MiniSplit {
    pub timewait: [u64; 2],
    pub finwait2: [u64; 2],
    pub requests: [u64; 2],
}
pub fn listing(p: Option<u16>) -> Result<super::procfs::Listing, Error> {
    super::procfs::listing(p).map_err(|e| Error(e.to_string()))
}
pub fn minisockets() -> Result<MiniSplit, Error> {
    let mut m = MiniSplit::default();
    for (i, f) in ["tcp", "tcp6"].iter().enumerate() {
        for line in std::fs::read_to_string(format!("/proc/thread-self/net/{f}"))
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let w: Vec<&str> = line.split_whitespace().collect();
            match (w[3], &w[5][..2]) {
                ("06", _) => m.timewait[i] += 1,
                ("05", "03") => m.finwait2[i] += 1,
                ("03", "01") if w[9] == "0" => m.requests[i] += 1,
                ("0C", _) => m.requests[i] += 1,
                _ => {}
            }
        }
    }
    Ok(m)
}
