from relprop.cli import main

main()
