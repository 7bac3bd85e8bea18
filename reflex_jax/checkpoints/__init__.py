"""Foreign weights into our parameter trees and back: nothing missing, nothing extra."""
