"""What is printed is what is there."""

from trainer.terminal import console, plain


def test_names_between_colons_and_brackets_are_printed_as_they_are():
    with console.capture() as caught:
        console.print(plain("<lora:dog:1> [red] dog"))
    assert caught.get() == "<lora:dog:1> [red] dog\n"
