//! The terminal while it is ours: entered on creation, as before once dropped. A panic restores it
//! before its message is printed.

use std::io;

use ratatui::{DefaultTerminal, Frame, layout::Size};

/// The terminal, with nothing on it but what is drawn.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// What the terminal says; it is as before then.
    pub fn enter() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Its size, which changes at any time.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn size(&self) -> io::Result<Size> {
        self.0.size()
    }

    /// Draws all of it; what has not changed is not written.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(view).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// A terminal that has gone needs nothing any more.
fn restore() {
    drop(ratatui::try_restore());
}
