//! Steps of the clock. Nothing here can step the clock of the machine; that no step can matter is
//! shown by what the code asks for.

use std::{fs, path::Path};

/// The start time that a page shows is one of the calendar, as are the times that OTLP wants, and the minutes
/// of the history and the beginnings of problems, which are kept by a clock that is never set.
const ALLOWED: [&str; 4] = [
    "serve/http/metrics/process.rs",
    "serve/otlp/mod.rs",
    "track/history/samples.rs",
    "view/time.rs",
];

#[test]
fn no_count_and_no_interval_depends_on_the_calendar() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![sources.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .ends_with("tests")
            {
                continue;
            }
            let name = path.strip_prefix(&sources).unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let calendar = ["SystemTime", "CLOCK_REALTIME", "UNIX_EPOCH"];
            let asks = calendar.iter().any(|clock| text.contains(clock));
            assert_eq!(asks, ALLOWED.contains(&name), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} files");
}
