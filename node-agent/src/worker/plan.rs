//! What an armed port does with its connections now.
