//! The terminal in raw mode: set on creation, restored on drop and before a panic message is printed.

use std::io;

use ratatui::{DefaultTerminal, Frame, layout::Size};

/// The terminal in raw mode on the alternate screen.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Enters raw mode.
    ///
    /// # Errors
    /// Errors of the terminal, which is restored then.
    pub fn enter() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// The current size.
    ///
    /// # Errors
    /// Errors of the terminal.
    pub fn size(&self) -> io::Result<Size> {
        self.0.size()
    }

    /// Draws a frame; writes only what changed.
    ///
    /// # Errors
    /// Errors of the terminal.
    pub fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(view).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal; one that is gone needs nothing.
fn restore() {
    drop(ratatui::try_restore());
}
