//! The eBPF object in the repository belongs to the sources beside it. That the sources really
//! make these bytes is checked by `cargo xtask test`, where the eBPF toolchain is present.

use std::path::Path;

use xtask::object::Record;

#[test]
fn kept_object_belongs_to_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let record = Record::read(root).unwrap();
    if let Err(error) = record.check(root) {
        panic!("{error:#}");
    }
}
