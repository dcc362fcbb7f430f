//! temp
use crate::server::{Source, protocol::*};
use crate::snapshot::*;
pub struct Scan(String);
impl Scan {
    pub fn new(r: String) -> Self {
        Self(r)
    }
}
impl Source for Scan {
    fn get(&self, _: &Get) -> Result<u64, Refusal> {
        Err(Refusal {
            kind: RefusalKind::Unavailable,
            message: self.0.clone(),
        })
    }
    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, Refusal> {
        Err(Refusal {
            kind: RefusalKind::Unavailable,
            message: self.0.clone(),
        })
    }
}
