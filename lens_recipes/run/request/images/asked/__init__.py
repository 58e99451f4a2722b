"""What a caller passes: chats that hold images, images for each prompt, marks in a text."""
